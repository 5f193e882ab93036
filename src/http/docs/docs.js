// The page's own script: no inline code, so that the content security policy can forbid it.
const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false,
  tryItOutEnabled: false,
});
ui.initOAuth({ scopes: "llm-keys:read" });
window.ui = ui;
