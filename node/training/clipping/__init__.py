"""Sums of clipped per-record gradients, of any torch module, for little more than a plain gradient costs.

gradient      the sum; the only way in
bookkeeping   one forward and one backward pass for a whole batch
layers        what each kind of layer makes of its input and the gradient at its output
terms         gradients of one parameter: their norms, and their weighted sum
sums          what is added up in which precision, so that rounding stays small beside the clip norm
per_record    for modules that have to be taken a record at a time
recurrent     GRU and LSTM that the first way can take
parameters    a module's parameters as one vector
"""

from p2pfl.node.training.clipping.gradient import ClippedGradient
from p2pfl.node.training.clipping.parameters import Slot
from p2pfl.node.training.clipping.recurrent import GRU, LSTM

__all__ = ["GRU", "LSTM", "ClippedGradient", "Slot"]
