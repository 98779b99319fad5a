"""Statistics of labels and value vectors: resampling, agreement, classification, calibration, structure, probes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "agreement": ["cohen_kappa", "gwet_ac1", "krippendorff_alpha", "measure_agreement"],
    "classification": ["classwise_calibration_error", "fit_conformal", "fit_temperatures", "macro_f1"],
    "comparison": ["adjust_p", "compare_paired", "correlate"],
    "factors": ["count_factors", "fit_factors", "fit_groups"], "probes": ["probe_preference"],
    "resampling": ["bootstrap_means", "share_interval", "take_interval"], "structure": ["assess_circle"]})
