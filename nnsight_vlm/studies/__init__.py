"""What all recipes share: what they are given, controls, work that survives an interruption, and the frame at the end.

Files: `study` is the beginning and the end of every recipe, and `pair_study` the beginning of those that compare two
pictures; `asked`, `given`, `pairs` and `words` check what a user hands over; `item_checks` opens every item once,
`item_prompts` encodes it again when it is measured, and `right_answers` finds those that the model answers right;
`clusters` says which prompts are about one image; `work` and `journal` measure in chunks and keep what is finished;
`controls`, `token_sets` and `layer_sets` choose positions and layers, for measurements and for the random controls
beside them; `registry` knows the recipes by name, `papers` what they follow, and `provenance` writes into every frame
where it comes from; `image_patches`, `image_token_sets`, `object_words` and `map_scores` relate tokens of the image and
of the answer to objects; `box_formats` reads boxes; `labels` has the words that frames use.
"""
