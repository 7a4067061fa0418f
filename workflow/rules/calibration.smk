# Thresholds and rankings for the target sparsities.
use rule stage as calibration with:
    output:
        output("calibration"),
    log:
        log_file("calibration"),
    message:
        message("calibration")
