"""AlexNet trained by data-parallel workers: the run (`study`) and its workers (`work`)."""
