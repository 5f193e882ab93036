// Log in, fetch your keys, rotate one, and read in the audit log that all of that happened.

import java.time.OffsetDateTime;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Collections;
import java.util.TreeSet;
import keydesk.ApiClient;
import keydesk.ApiException;
import keydesk.api.AdminAuditApi;
import keydesk.api.AdminProviderKeysApi;
import keydesk.api.LlmKeysApi;
import keydesk.api.TokensApi;
import keydesk.model.AuditEvent;
import keydesk.model.GrantType;
import keydesk.model.ProviderKeyRequest;

public class Main {
    public static void main(String[] arguments) {
        try {
            run();
        } catch (ApiException refusal) {
            // The body is a Problem, or at the token endpoint an OAuthProblem: both say why.
            System.err.println(refusal.getCode() + ": " + refusal.getResponseBody());
            System.exit(1);
        }
    }

    static void run() throws ApiException {
        var begun = OffsetDateTime.now();
        var username = System.getenv("KEYDESK_USERNAME");
        var desk = new ApiClient();
        desk.updateBaseUri(System.getenv("KEYDESK_URL"));

        // Log in. What a token may do has to be asked for.
        var scope = "llm-keys:read llm-keys:write audit:read";
        var token = new TokensApi(desk)
            .issueToken(GrantType.PASSWORD, username, System.getenv("KEYDESK_PASSWORD"), null, scope, null, null);
        desk.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + token.getAccessToken()));

        // Fetch the keys.
        var keys = new LlmKeysApi(desk).listLlmKeys("default", null, null);
        System.out.println("keys: " + String.join(", ", new TreeSet<>(keys.keySet())));

        // Rotate one: the desk hands out the new key from now on.
        var key = new ProviderKeyRequest().key(System.getenv("NEW_OPENAI_KEY"));
        var rotated = new AdminProviderKeysApi(desk).setProviderKey("default", "openai", key);
        System.out.println(rotated.getProvider() + ": version " + rotated.getVersion());

        // Read the book: newest first.
        var book = new AdminAuditApi(desk).listAuditEvents(username, null, null, begun, null, null, null);
        var events = new ArrayList<>(book.getItems());
        Collections.reverse(events);
        for (AuditEvent event : events) {
            var at = event.getAt().format(DateTimeFormatter.ISO_LOCAL_TIME).substring(0, 8);
            System.out.println(at + " " + event.getActor() + " " + event.getAction() + " " + event.getOutcome());
        }
    }
}
