# Prompts of one task, length and tokenizer.
use rule stage as prompts with:
    output:
        output("prompts"),
    log:
        log_file("prompts"),
    message:
        message("prompts")
