"""MT-net's paper (Lee and Choi 2018): its runs, tables and figures, where two cores can make them."""
