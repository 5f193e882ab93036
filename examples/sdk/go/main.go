// Log in, fetch your keys, rotate one, and read in the audit log that all of that happened.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	keydesk "keydesk.example/sdk/client"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(reason(err))
	}
}

func run(ctx context.Context) error {
	begun := time.Now()
	username := os.Getenv("KEYDESK_USERNAME")
	configuration := keydesk.NewConfiguration()
	configuration.Servers = keydesk.ServerConfigurations{{URL: os.Getenv("KEYDESK_URL")}}
	desk := keydesk.NewAPIClient(configuration)

	// Log in. What a token may do has to be asked for.
	token, _, err := desk.TokensAPI.IssueToken(ctx).
		GrantType(keydesk.GRANTTYPE_PASSWORD).
		Username(username).
		Password(os.Getenv("KEYDESK_PASSWORD")).
		Scope("llm-keys:read llm-keys:write audit:read").
		Execute()
	if err != nil {
		return err
	}
	configuration.AddDefaultHeader("Authorization", "Bearer "+token.AccessToken)

	// Fetch the keys.
	keys, _, err := desk.LLMKeysAPI.ListLlmKeys(ctx).Project("default").Execute()
	if err != nil {
		return err
	}
	fmt.Println("keys:", strings.Join(slices.Sorted(maps.Keys(keys)), ", "))

	// Rotate one: the desk hands out the new key from now on.
	rotated, _, err := desk.AdminProviderKeysAPI.SetProviderKey(ctx, "default", "openai").
		ProviderKeyRequest(*keydesk.NewProviderKeyRequest(os.Getenv("NEW_OPENAI_KEY"))).
		Execute()
	if err != nil {
		return err
	}
	fmt.Printf("%s: version %d\n", rotated.Provider, rotated.Version)

	// Read the book: newest first.
	book, _, err := desk.AdminAuditAPI.ListAuditEvents(ctx).Principal(username).Since(begun).Execute()
	if err != nil {
		return err
	}
	for _, event := range slices.Backward(book.Items) {
		fmt.Println(event.At.Format(time.TimeOnly), event.Actor, event.Action, event.Outcome)
	}
	return nil
}

// reason is what the desk has against it: a Problem, or at the token endpoint an OAuthProblem.
func reason(err error) string {
	var refused *keydesk.GenericOpenAPIError
	if errors.As(err, &refused) {
		switch problem := refused.Model().(type) {
		case keydesk.Problem:
			return problem.Title + ": " + problem.Detail
		case keydesk.OAuthProblem:
			return problem.Error + ": " + problem.ErrorDescription
		}
	}
	return err.Error()
}
