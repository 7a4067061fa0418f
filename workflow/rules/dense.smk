# The dense model's greedy answers.
use rule stage as dense with:
    output:
        output("dense"),
    log:
        log_file("dense"),
    message:
        message("dense")
