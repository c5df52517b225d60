"""AlexNet trained by data-parallel workers: what a run is (`study`), and what each of its workers does (`work`)."""
