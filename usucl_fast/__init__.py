"""usucl_fast: contrastive learning of image representations from ultrasound videos.

Data flows one way, and the packages are named in that order:

    pack      videos -> shards
    feed      frame ids -> device tensors
    mining    embeddings -> hard negatives
    learn     batches -> backbone
    evaluate  backbone and labels -> figures with intervals
    bench     all of it beside its peers
    cli       one thin module a command
"""

__version__ = "0.1.0"
