from .page import page_of as page_of
from .page import write_page as write_page
