"""Tasks of more than one paper: networks, splits of data, weak labels, texts as BERT reads them."""
