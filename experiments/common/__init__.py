"""What every experiment shares: settings, run folder, training, tables, progress and pictures.

All densities and accuracies are fractions (0 to 1); only printed and plotted values are in percent.
"""

from experiments.common.compare import Contestant as Contestant
from experiments.common.compare import Results as Results
from experiments.common.compare import compare as compare
from experiments.common.compare import logged as logged
from experiments.common.compare import show_page as show_page
from experiments.common.compare import show_pages as show_pages
from experiments.common.compare import tradeoff as tradeoff
from experiments.common.run import Run as Run
from experiments.common.run import check_finite as check_finite
from experiments.common.run import open_run as open_run
from experiments.common.seeds import Seeds as Seeds
from experiments.common.seeds import SeedTraining as SeedTraining
from experiments.common.seeds import build as build
from experiments.common.seeds import networks as networks
from experiments.common.seeds import per_seed as per_seed
from experiments.common.settings import FREE as FREE
from experiments.common.settings import ArmSettings as ArmSettings
from experiments.common.settings import Diverged as Diverged
from experiments.common.settings import ImageSettings as ImageSettings
from experiments.common.settings import RunSettings as RunSettings
from experiments.common.settings import StudySettings as StudySettings
from experiments.common.settings import TrainSettings as TrainSettings
from experiments.common.settings import learning_rate as learning_rate
from experiments.common.settings import start as start
from experiments.common.show import COLORS as COLORS
from experiments.common.show import Epochs as Epochs
from experiments.common.show import counted as counted
from experiments.common.show import draw as draw
from experiments.common.show import header as header
from experiments.common.show import mean_std as mean_std
from experiments.common.show import percent as percent
from experiments.common.show import save as save
from experiments.common.show import table as table
from experiments.common.sweep import Inputs as Inputs
from experiments.common.sweep import Sweep as Sweep
from experiments.common.sweep import in_turn as in_turn
from experiments.common.sweep import over_devices as over_devices
from experiments.common.sweep import side_by_side as side_by_side
from experiments.common.sweep import standardized as standardized
from experiments.common.sweep import to_float as to_float
from experiments.common.sweep import turns_on_cpu as turns_on_cpu
from experiments.common.train import Published as Published
from experiments.common.train import cross_entropy as cross_entropy
from experiments.common.train import results as results
from experiments.common.train import study as study
from experiments.common.train import sweeps as sweeps
from experiments.common.train import train as train
