# Key moments of a text other than the prompt.
use rule stage as moments with:
    output:
        output("moments"),
    log:
        log_file("moments"),
    message:
        message("moments")
