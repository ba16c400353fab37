"""The names of the arms (what is compared), and the choices of how they are compared."""

FEED_ARMS = (
    *("dali", "torch", "ffcv", "resident"),
    *("published", "stock-webdataset", "stock-dali", "stock-ffcv", "stock-ffcv-raw", "datasets", "spdl", "torchcodec"),
    *("floor-decode", "floor-copy", "floor-replay"),
)
DELIVERIES = ("tensors", "crops")
SHARD_ARMS = ("usucl-shard", "usucl-shard-uncropped", "decode", "ffmpeg-tar")
MINING_ARMS = (
    *("exact", "approximate"),
    *("faiss-flat", "faiss-flat-open", "faiss-ivf", "faiss-hnsw"),
    *("published", "product-topk", "floor-matmul"),
)
EMBEDDINGS = ("random", "clustered")
TRAIN_ARMS = ("usucl", "floor-cached", "compiled", "published", "published-lean")
PAGE_CACHES = ("warm", "cold")
