"""The page that people open first: which patches each word of an answer read, in a notebook and as one HTML file.

Files: `making` is `nv.view`; `asking` looks at its arguments before the model runs; `panels` lays out the pictures,
`shown_words` the text; `reading`, `causal`, `gradients` and `lens_words` measure, `columns` puts one column together,
`fitting` makes it small enough; `packing` turns arrays into text, `pages` the whole into HTML. `page/` is the source of
what runs in the browser, `assets/` what is built of it.
"""
