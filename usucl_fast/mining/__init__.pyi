from .bank import MemoryBank as MemoryBank
from .bank import Nearest as Nearest
from .distributed import PartitionedBank as PartitionedBank
from .search import TorchSearch as TorchSearch
from .selection import hardest_in_window as hardest_in_window
from .selection import nearest_in as nearest_in
from .selection import soft_negative as soft_negative
