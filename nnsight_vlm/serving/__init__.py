"""The page of `nv.view`, live: ask another question, close a route, and see the answer being written.

A small HTTP server on this machine's own address, for one person. `guard` lets in who has the token, from this
machine's own pages; `open_pages` holds what each open page has shown to the model, until it is closed; `turns` lets one
request at a time use the model; `changes` reads an intervention, and `fields` says which field of it is wrong;
`answers` answers, cuts and proves; `app` is the list of addresses; `running` starts and stops it.
"""
