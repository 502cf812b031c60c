"""What is left of a sparse model, made small."""

from jsparse.export.record import Cut as Cut
from jsparse.export.record import Record as Record
from jsparse.export.record import rebuild as rebuild
from jsparse.export.shrinking import shrink as shrink
