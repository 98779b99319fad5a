"""A dialogue to be labelled and the texts of two rows to be reviewed."""

import pandas as pd

from fulcra_utils.dataset.rows import Dialogue

PLAIN = Dialogue((("user", "Hi?"), ("assistant", "Hello.")))
TEXTS = pd.DataFrame({"row_id": ["r0", "r1"], "prompt": ["Hi <b>?", "=1+1"], "response": ["Hello & bye.", "</style>"]})
