"""Wrong configs, wrong files and damaged workdirs from a fixed seed: `python -m tests.fuzz`.

What is expected is known by how a case is made, not by the checks of the package: a field is given
what does not fit the kind of its default value, a file what no file of its kind has, a workdir
damage that either changes nothing or has to be found.
"""
