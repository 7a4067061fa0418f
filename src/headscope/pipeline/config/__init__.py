"""Options: their schema, Hydra's composition, and checks that refuse a wrong option before anything runs. No torch."""
