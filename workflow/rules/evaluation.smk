# All criteria and targets of one task and length, decoded as one batch a prompt.
use rule stage as evaluation with:
    output:
        output("evaluation"),
    log:
        log_file("evaluation"),
    message:
        message("evaluation")
