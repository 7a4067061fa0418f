# Queries of the calibration prompts, for rules that choose outliers.
use rule stage as probes with:
    output:
        output("probes"),
    log:
        log_file("probes"),
    message:
        message("probes")
