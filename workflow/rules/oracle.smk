# Exact log masses and each estimator's, on the dense answers.
use rule stage as oracle with:
    output:
        output("oracle"),
    log:
        log_file("oracle"),
    message:
        message("oracle")
