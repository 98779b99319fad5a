"""The angles that arXiv 2305.17147 gives to ideal players, for tests of the slider and of who plays it."""

PUBLISHED = {"altruist": (61.39, 61.39), "minimal inequality": (37.48, 37.48), "joint maximum": (41.04, 48.96),
             "individualist": (-7.82, 7.82), "competitor": (-16.26, -16.26)}   # arXiv 2305.17147
