"""What the kinds of task answer, as values to import."""

from leanmed.tasks.classification.answer import Prediction as Prediction
from leanmed.tasks.detection.answer import Detections as Detections
from leanmed.tasks.detection.candidates import Candidate as Candidate
from leanmed.tasks.detection.candidates import Candidates as Candidates
from leanmed.tasks.segmentation.answer import MaskedImage as MaskedImage
from leanmed.tasks.segmentation.scan import MaskedScan as MaskedScan
