// The page's own script. Without fonts from elsewhere: nothing on this page comes from another host.
Redoc.init("/openapi.json", { theme: { typography: { fontFamily: "sans-serif", headings: { fontFamily: "sans-serif" } } } },
  document.getElementById("redoc"));
