# Diagnostics of the Gaussian model; only for figures that read them.
use rule stage as diagnostics with:
    output:
        outputs("diagnostics"),
    log:
        log_file("diagnostics"),
    message:
        message("diagnostics")
