# Tracking is a leaf: finished folders are replayed, nothing waits for it, and it is part of no result's address.
use rule stage as track with:
    output:
        output("track"),
    log:
        log_file("track"),
    message:
        message("track")
