module keydesk.example/sdk/example

go 1.23

require keydesk.example/sdk/client v0.0.0

replace keydesk.example/sdk/client => ./keydesk-client
