# Margins of criteria with outliers or for the lost output, on the dense answers.
use rule stage as margins with:
    output:
        output("margins"),
    log:
        log_file("margins"),
    message:
        message("margins")
