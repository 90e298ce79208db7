"""The check of an installation: Python, packages, device, memory, disk, cache, and a canary.

`check_machine` is the public verb, which `mascot doctor` calls where it is given no photos. The
canary trains ten known steps on the embedded base and compares them with the numbers in
`canary.json`; `python -m starter_training canary` writes that file.

What does not live here: the check of photos and settings (`api/doctor.py`), and printing (`cli`).
The command line and the studio may import it, and `starter_training`, which records the numbers.
"""
