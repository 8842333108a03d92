/** Shows openapi.json with Swagger UI. The URL is relative, so that it holds under any prefix. */
window.SwaggerUIBundle({
  url: "openapi.json",
  domNode: document.querySelector("#api"),
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null, // the default sends the document to another host
});
