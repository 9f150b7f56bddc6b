"""What measures speed and accuracy; the results lie beside it, with the machine they were had on."""
