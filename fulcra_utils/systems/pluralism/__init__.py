"""Value pluralism: which values, rights and duties bear on a situation, and which way each speaks (Kaleido)."""
