module example.com/shop

require github.com/pressly/goose/v3 v3.24.0
