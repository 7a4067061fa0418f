# All figures of one set.
use rule stage as figures with:
    output:
        output("figures"),
    log:
        log_file("figures"),
    message:
        message("figures")
