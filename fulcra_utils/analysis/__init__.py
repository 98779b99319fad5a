"""What values say: prevalence, risks, models, probes, the value space and its circle."""
