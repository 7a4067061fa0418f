# The dense model's greedy answers.
use rule stage as dense with:
    output:
        outputs("dense"),
    log:
        log_file("dense"),
    message:
        message("dense")
