"""The recipes from the command line: `nnsight-vlm recipes` lists them, `nnsight-vlm run RECIPE` runs one into a folder.

Files: `flags` makes options of a recipe's arguments; `parser` puts them beside those that every recipe has and reads
the command line; `runs` measures and writes the folder; `listing` shows which recipes there are.
"""
