"""usucl_fast: contrastive learning of image representations from ultrasound videos.

Data flows one way, and the packages are named in that order:

    shards    the format: one integer names a frame
    pack      videos -> shards
    feed      frame ids -> device tensors
    mining    embeddings -> hard negatives
    learn     batches -> backbone
    evaluate  backbone and labels -> figures with intervals
    bench     all of it beside its peers
    cli       one thin module a command

Below all of them, and knowing none:

    errors.py    every error that is raised on purpose
    checks.py    what is looked at before an array goes to compiled code
    files.py     writing files whole or not at all
    curriculum.py   how the choice of negatives changes over training
    machine.py   cores, instructions, devices
    progress.py  progress of long work on a terminal
    html.py      pages of one file, with the styles and scripts in assets/
    compiled.py  numba's compiler, and where it keeps what it has compiled
    optional.py  packages that need not be there
"""

__version__ = "0.1.0"
