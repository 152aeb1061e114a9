"""A page that answers in the browser, without a network once it is there."""
