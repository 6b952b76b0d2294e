"""A recipe's frame as a paragraph of a methods section, with its papers.

Files: `record` reads what a frame says of itself; `paragraph` tells it; `numbers_told` chooses the numbers;
`kinds` says what such numbers can show; `references` writes the papers.
"""
