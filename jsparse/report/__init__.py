"""Reports on sparse models; nothing here changes a model."""

from jsparse._versions import versions as versions
from jsparse.report._efficiency import Costs as Costs
from jsparse.report._efficiency import accuracy_density as accuracy_density
from jsparse.report._efficiency import costs as costs
from jsparse.report._efficiency import hardness_density as hardness_density
from jsparse.report._front import front as front
from jsparse.report._logme import Evidence as Evidence
from jsparse.report._logme import logme as logme
from jsparse.report._overlap import Overlap as Overlap
from jsparse.report._overlap import Stability as Stability
from jsparse.report._overlap import overlap as overlap
from jsparse.report._overlap import stability as stability
from jsparse.report._page import compare as compare
from jsparse.report._page import page as page
from jsparse.report._saving import save as save
from jsparse.report._structure import Effective as Effective
from jsparse.report._structure import Structure as Structure
from jsparse.report._structure import effective as effective
from jsparse.report._structure import structure as structure
from jsparse.report._summary import Row as Row
from jsparse.report._summary import Summary as Summary
from jsparse.report._transfer import Candidate as Candidate
from jsparse.report._transfer import Transfer as Transfer
from jsparse.report._transfer import leep as leep
from jsparse.report._transfer import nce as nce
from jsparse.report._transfer import transfer as transfer
