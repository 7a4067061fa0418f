# Prompts of one task, length and tokenizer.
use rule stage as prompts with:
    output:
        outputs("prompts"),
    log:
        log_file("prompts"),
    message:
        message("prompts")
