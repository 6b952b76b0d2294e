"""A recipe's frame as a paragraph of a methods section, with its papers.

Files: `record` reads what a frame says of itself; `paragraph` tells it; `numbers_told` writes the numbers, which a
user or `by_default` chooses (with windows of layers, `layer_windows`); `kinds` says what such numbers can show;
`references` writes the papers.
"""
