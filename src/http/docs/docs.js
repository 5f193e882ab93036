// The page's own script: no inline code, so that the content security policy can forbid it.
//
// Swagger UI comes as it is. What it lacks for a keyboard, a screen reader or a first visit is added here, through its own
// plugins where it has them and in the page where it has none.

const announce = (text) => { document.getElementById("announcement").textContent = text; };

// Swagger UI fills a form field by field, from the fields' own examples, and writes "string" where there is none. So each
// field gets what the example of the whole form has for it.
const exampleTokens = {};
const fillForms = (document) => {
  for (const [path, { post }] of Object.entries(document.paths)) {
    const form = post?.requestBody?.content["application/x-www-form-urlencoded"];
    const example = form?.example ?? Object.values(form?.examples ?? {})[0]?.value;
    if (!example) continue;
    exampleTokens[path] = example.token;
    form.schema = structuredClone(document.components.schemas[form.schema.$ref.split("/").pop()]);
    for (const [field, property] of Object.entries(form.schema.properties)) property.example = example[field] ?? "";
  }
  return document;
};

// An empty field of a form counts as absent: it need not be sent.
const leaveOutEmpty = (request) => {
  if (typeof request.body === "string" && request.headers?.["Content-Type"] === "application/x-www-form-urlencoded") {
    request.body = request.body.split("&").filter((field) => !field.endsWith("=")).join("&");
  }
  return request;
};

// What an answer has just named is what the next request is about: its identifier, its version, its tokens.
const issued = {};
const carryOver = (response) => {
  const { pathname } = new URL(response.url, location.href);
  const paths = ui.specSelectors.specJson().get("paths");
  const fits = (template) => new RegExp(`^${template.replaceAll(".", "\\.").replace(/\{\w+\}/g, "[^/]+")}$`).test(pathname);
  const path = response.ok && paths?.keySeq().find(fits);
  if (!path) return;
  const fill = (path, name, where, value) => {
    for (const [method, operation] of paths.get(path)?.entries() ?? []) {
      const takes = operation.get("parameters")?.some((one) => one.get("name") === name && one.get("in") === where);
      if (value && takes) ui.specActions.changeParam([path, method], name, where, value);
    }
  };
  const { obj } = response;
  fill(`${path}/{id}`, "id", "path", obj?.api_key ? obj.id : obj?.items?.find((item) => !item.revoked_at)?.id);
  fill(path, "If-Match", "header", response.headers.etag);
  if (path !== "/token") return;
  issued["/introspect"] = obj.access_token;
  // Not the session of this page: who tries out how a token is revoked wants to go on.
  if (!document.querySelector("[role=dialog]")) issued["/revoke"] = obj.refresh_token ?? obj.access_token;
};

// Drawing a form fills it with its example, in whose place there may be a token that was issued meanwhile.
const fillWithIssued = (original) => (filling) => {
  const [path] = filling.pathMethod;
  const isExample = ui.Im.Map.isMap(filling.value) && filling.value.get("token") === exampleTokens[path];
  return original(isExample && issued[path] ? { ...filling, value: filling.value.set("token", issued[path]) } : filling);
};

// A dialog as the ARIA Authoring Practices want it: named, with the focus inside until it closes, and back afterwards.
const Dialog = (Original, { React, authActions, errActions }) => (props) => {
  const box = React.useRef(null);
  React.useEffect(() => {
    const before = document.activeElement;
    box.current.querySelector("input, .btn-done").focus();
    return () => {
      errActions.clear({ source: "auth" });
      (before.isConnected && before !== document.body ? before : document.querySelector(".auth-wrapper .authorize")).focus();
    };
  }, []);
  const onKeyDown = (event) => {
    const stops = [...box.current.querySelectorAll("button, input, select, a")].filter((one) => one.offsetParent);
    const at = stops.indexOf(document.activeElement);
    if (event.key === "Escape") authActions.showDefinitions(false);
    else if (event.key === "Tab" && at === (event.shiftKey ? 0 : stops.length - 1)) stops.at(event.shiftKey ? -1 : 0).focus();
    // The OAuth 2.0 inputs are in no form, which would take the Enter key.
    else if (event.key === "Enter" && event.target.matches("input:not([type=checkbox])")) event.target.closest(".auth-container").querySelector(".authorize")?.click();
    else return;
    event.preventDefault();
  };
  const onClick = (event) => event.target.matches(".backdrop-ux") && authActions.showDefinitions(false);
  return React.createElement("div", { ref: box, role: "dialog", "aria-modal": true, "aria-label": "Authorize", onKeyDown, onClick },
    React.createElement(Original, props));
};

// Who has shown who they are wants to go on.
const thenClose = (original, { authActions }) => (payload) => {
  const done = original(payload);
  authActions.showDefinitions(false);
  announce("You are authorized.");
  return done;
};

const Keydesk = {
  statePlugins: {
    spec: { wrapActions: { updateJsonSpec: (original) => (document) => original(document.paths ? fillForms(document) : document) } },
    oas3: { wrapActions: { setRequestBodyValue: fillWithIssued } },
    auth: { wrapActions: { authorize: thenClose, authorizeOauth2: thenClose } },
  },
  wrapComponents: {
    authorizationPopup: Dialog,
    // A link inside a button is neither.
    DeepLink: (_, { React }) => ({ text }) => React.createElement("span", null, text),
    // What is read out begins with what is seen.
    Button: (Original, { React }) => (props) => {
      const label = props["aria-label"] && `${props.children}: ${props["aria-label"]}`;
      return React.createElement(Original, { ...props, "aria-label": label });
    },
  },
};

const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  plugins: [Keydesk],
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false,
  defaultModelsExpandDepth: 0,
  syntaxHighlight: { activated: false },
  requestInterceptor: leaveOutEmpty,
  responseInterceptor: (response) => {
    if (!response.loadSpec) announce(`The answer is ${response.status} ${response.statusText}`);
    try { carryOver(response); } catch (error) { console.debug(error); }
    return response;
  },
});
ui.initOAuth({ scopes: "llm-keys:read" });

// What Swagger UI draws and no plugin reaches: attributes, set whenever it has drawn something.
const MENDED = {
  ".info .title": { role: "heading", "aria-level": "1" },
  ".close-modal": { "aria-label": "Close" },
  ".copy-to-clipboard button": { "aria-label": "Copy" },
  ".live-responses-table .microlight": { tabindex: "0" }, // a long answer scrolls
  ".body-param__text": { "aria-label": "Request body" },
  ".examples-select-element": { "aria-label": "Example" },
  "#oauth_username": { autocomplete: "username", autocapitalize: "none" },
  "#oauth_password": { autocomplete: "current-password" },
  ".scopes h2": { "aria-level": "5" },
  ".scopes h2 a": { role: "button", tabindex: "0" },
  ".info a[href^='/docs#']": { target: "_self" },
};
const mend = () => {
  for (const [selector, attributes] of Object.entries(MENDED)) {
    for (const element of document.querySelectorAll(selector)) {
      for (const [name, value] of Object.entries(attributes)) if (element.getAttribute(name) !== value) element.setAttribute(name, value);
    }
  }
  // A field is called what its row is.
  for (const field of document.querySelectorAll("tr:is([data-param-name], [data-property-name]) :is(input:not([type=checkbox]), select, textarea)")) {
    const { paramName, propertyName } = field.closest("tr").dataset;
    if (!field.ariaLabel) field.ariaLabel = paramName ?? propertyName;
  }
  const refusal = document.querySelector(".auth-container .errors");
  if (refusal && !refusal.dataset.announced) {
    refusal.dataset.announced = true;
    announce(refusal.textContent);
  }
};
new MutationObserver(mend).observe(document.getElementById("ui"), { childList: true, subtree: true });

// Opens an operation that the introduction names, and goes there.
const open = (tag, operation) => {
  ui.layoutActions.show(["operations-tag", tag], true);
  ui.layoutActions.show(["operations", tag, operation], true);
  requestAnimationFrame(() => {
    const block = document.getElementById(`operations-${tag.replaceAll(" ", "_")}-${operation}`);
    block.scrollIntoView();
    block.querySelector(".opblock-summary-control").focus();
  });
};
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href*='#']");
  if (link?.pathname !== location.pathname) return;
  event.preventDefault();
  const [, tag, operation] = decodeURIComponent(link.hash).split("/");
  if (operation) open(tag, operation);
  else document.querySelector(".expand-operation")?.focus();
});
document.addEventListener("keydown", (event) => {
  if ((event.key === "Enter" || event.key === " ") && event.target.matches(".scopes h2 a")) event.target.click();
});
window.ui = ui;
