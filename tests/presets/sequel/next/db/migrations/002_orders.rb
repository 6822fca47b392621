Sequel.migration do
  change { create_table(:orders) { Integer :id, primary_key: true } }
end
