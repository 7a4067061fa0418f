# Exact log masses and each estimator's, on the dense answers.
use rule stage as oracle with:
    output:
        outputs("oracle"),
    log:
        log_file("oracle"),
    message:
        message("oracle")
