from .curriculum import curriculum_text as curriculum_text
from .curve import sparkline as sparkline
