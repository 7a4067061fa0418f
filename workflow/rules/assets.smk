# Models and texts. A local rule: it runs where the internet is.
use rule stage as assets with:
    output:
        output("assets"),
    log:
        log_file("assets"),
    threads: cores_of_asset
    message:
        message("assets")
