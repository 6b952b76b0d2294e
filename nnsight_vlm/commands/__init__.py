"""What stands behind the command line: one room for each command, and what commands share.

Shared: `options` (options of several commands), `output` (what is printed where), `working` (errors and exit codes).
Commands: `page` (`view`), `live` (`serve`), `pictures` (`ground`, `knockout`), `lists` (`recipes`, `families`,
`draft`), `doctor`, and `run`, of which `flags` makes options of a recipe's arguments, `parser` reads the command line
and `runs` writes the folder. `listing`, `family_list` and `machine` gather what is shown.

Rooms that hold a command are imported with `cli`, so they import nothing heavy.
"""
